"""Chooses which cases run under which plans by default."""

from tests.equality.cases import CASES
from tests.equality.plans import KINDS, PLANS


def allowed(case, plan):
    """Whether a case's model can be laid out so."""
    arguments = PLANS[plan]
    # A stage is what weights that are shared out are brought for, also if there is one alone.
    graph = arguments.get("stages", 1) > 1 or arguments.get("shard") == "weights"
    return (case.cut or not graph) and (case.microbatches or arguments.get("microbatches", 1) == 1)


def replicated(plan):
    """Whether several replicas share a batch: on one, most of the law is plain Keras by construction."""
    return PLANS[plan].get("replicas", 1) > 1


def cross():
    """Return every case under every plan."""
    return [(case.name, plan) for case in CASES.values() for plan in PLANS if allowed(case, plan)]


def meetings(name, plan):
    """Return each feature of a case with the kind of a plan; on one replica most of the law holds by construction."""
    return {(feature, KINDS[plan]) for feature in CASES[name].features if plan != "1x1"}


def covering():
    """Return each case under one plan of several replicas, and what more it takes that features meet kinds of plans.

    Returns:
        Pairs of a case and a plan: those of each case, and those that are added.
    """
    everything = cross()
    missing = {pair for name, plan in everything for pair in meetings(name, plan)}
    chosen = []

    def add(pairs):
        """Add the pair that covers most; of equal ones, one of the plan that was chosen least."""

        def worth(pair):
            return len(covers(*pair)), -sum(plan == pair[1] for _, plan in chosen)

        best = max((pair for pair in pairs if pair not in chosen), key=worth)
        chosen.append(best)
        missing.difference_update(covers(*best))

    def covers(name, plan):
        return meetings(name, plan) & missing

    for name in CASES:
        add([pair for pair in everything if pair[0] == name and replicated(pair[1])])
    number = len(chosen)
    while missing:
        add(everything)
    return chosen[:number], chosen[number:]
