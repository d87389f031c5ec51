"""Qwen3-Reranker in this process: the prompt, the weights, and a forward pass made for reranking.

    query, texts
      → prompt.py       token sequences, and the prefix that all of them share
        (multimodal_prompt.py for Qwen3-VL-Reranker, whose images images.py reads and embeds)
      → calls.py        the calls that wait for the device; on a GPU, small ones share a batch
      → devices.py      shares for several devices, if there are several
      → batching.py     batches of sequences, longest first, up to a number of tokens
      → threads.py      a batch per core on a CPU, if that is faster (not in float32)
      → prefixes.py     the prefix, if the last call has not just computed it
      → decoder.py      the prefix's keys and values, computed once; each sequence's last state
      → cpu_layer.py    the layers on a CPU in bfloat16 or int8, with the products of products.py
      → attention.py    packed sequences attend to the prefix and to themselves

scorer.py has the public class. loading.py loads the weights, which source.py finds and checks,
adapter.py changes and rotation.py prepares for int8. compatibility.py checks that the installed
transformers has the modules that the decoder expects.
"""

from qwen_rerank.scorers.local.scorer import LocalScorer

__all__ = ["LocalScorer"]
