"""`python -m qwen_rerank.cli` is `qwen-rerank`."""

from qwen_rerank.cli import main

main()
