"""`rl-motion pretrain`: denoisers, retrieval models and evaluators from nothing, on imported data.

making.py says what a job trains, folder.py keeps its state and its records, pretrain.py sees it through.
"""
