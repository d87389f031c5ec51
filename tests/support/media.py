"""The smallest images and video that there can be."""

from __future__ import annotations

from base64 import b64decode, b64encode

__all__ = ["GIF", "MP4", "PNG", "PNG_URI"]

PNG = b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
"""One pixel."""

PNG_URI = f"data:image/png;base64,{b64encode(PNG).decode()}"

GIF = b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
"""One pixel."""

MP4 = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom"
"""The header of a video, by which its type is recognized."""
