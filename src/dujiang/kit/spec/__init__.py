"""Reads what people write by hand, YAML or JSON, and says everything that is wrong with it, with line and column.

`yaml` makes values that know their place, `readers` make them mean something, `problems` collect what does not fit.
What fields there are is for each context to say.
"""
