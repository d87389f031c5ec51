"""Qwen3-Reranker in this process: the prompt, the weights, and a forward pass made for reranking.

    query, texts
      → prompt.py      token rows, and the lead that all of them share
      → ranker.py      batches of rows, longest first, to a budget of tokens
      → decoder.py     the lead's keys and values once; each row's last hidden state
      → attention.py   packed rows attend to the lead and to themselves

scorer.py is the public face, loading.py finds the weights.
"""

from qwen_rerank.scorers.local.scorer import LocalScorer

__all__ = ["LocalScorer"]
