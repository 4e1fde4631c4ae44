"""The Sigma detector of the detect stage.

`documents` reads rule files, `compile` turns what pySigma parsed into the nodes of `match`, whose
leaves are the tests of `patterns` over the values of `values`; `load` joins these into a RuleSet,
and `engine` runs a RuleSet over events. pySigma is imported by `compile` and `load` only.
"""
