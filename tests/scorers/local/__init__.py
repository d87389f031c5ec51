"""LocalScorer. Without torch and transformers these tests are skipped."""

WHY_SKIPPED = "the extra `local` is not installed; `make test` installs it on Python 3.11"
