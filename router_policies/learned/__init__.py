"""The learned policy: cheap features of a prompt, two heads of trees in numpy, an honest novelty.

`artifact` loads what training wrote, `model` scores a text with it, `policy` ranks candidates by
the scores. Nothing here trains: that is router_policies/training, which is never imported here.
"""
