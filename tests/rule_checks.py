"""Graphs held against the rules of an accelerator, and what is found."""

from builders import altered
from fieldtune.hardware import load_profile
from fieldtune.placement.rules import check_rules

KV260 = load_profile("kv260")
STRIX = load_profile("ryzen-ai-strix")


def found(table, profile=KV260, **kwargs):
    return [(violation.rule, violation.node, violation.found) for violation in check_rules(table, profile, **kwargs)]


def one(table, profile=KV260):
    (violation,) = check_rules(table, profile)
    return violation


def with_accelerator(profile, **changes):
    return altered(profile, accelerator=changes)


def one_conv(graph, *, into=4, out=4, shape=(1, 16, 8, 8), **changes):
    made = graph()
    x = made.quantize(made.input("x", *shape), into)
    return made.table(made.quantize(made.conv(x, "conv", **changes), out), opset=17)
