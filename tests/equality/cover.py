"""Chooses which cases run under which plans by default."""

from tests.equality.cases import CASES
from tests.equality.plans import PLANS


def allowed(case, plan):
    """Whether a case's model can be laid out so."""
    arguments = PLANS[plan]
    return (case.cut or arguments.get("stages", 1) == 1) and (
        case.microbatches or arguments.get("microbatches", 1) == 1
    )


def cross():
    """Return every case under every plan."""
    return [(case.name, plan) for case in CASES.values() for plan in PLANS if allowed(case, plan)]


def covering():
    """Return each case under one plan, and what more it takes that each feature meets each plan."""
    everything = cross()
    missing = {(feature, plan) for name, plan in everything for feature in CASES[name].features}

    def covers(name, plan):
        return {(feature, plan) for feature in CASES[name].features} & missing

    chosen = []
    for case in CASES.values():
        best = max((pair for pair in everything if pair[0] == case.name), key=lambda pair: len(covers(*pair)))
        chosen.append(best)
        missing -= covers(*best)
    while missing:
        best = max(everything, key=lambda pair: len(covers(*pair)))
        chosen.append(best)
        missing -= covers(*best)
    return chosen
