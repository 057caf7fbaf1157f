"""Recording: JSONL always, MLflow beside it."""
