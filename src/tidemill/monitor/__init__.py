"""MEASURE: what became of the predictions, by cohort; the facts that the loop's steps hand to a strategy."""
