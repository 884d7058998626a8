"""Declared comparisons of continual-learning methods: studies in, records and reports out."""
