"""The table of methods. To add one: a file here with its options, `build` and `graph`, and a row below."""

from __future__ import annotations

from training.methods import (
    at,
    byot,
    cl,
    codistillation,
    crd,
    dcm,
    dks,
    dml,
    dualnet,
    ffl,
    fitnets,
    independent,
    kd,
    kdcl,
    lfmkd,
    multi_exit,
    okddip,
    one,
    pcl,
    rkd,
)
from training.methods.method import Method

METHODS: dict[str, Method] = {
    "lfmkd": lfmkd.METHOD,
    "ffl": ffl.METHOD,
    "dml": dml.METHOD,
    "cl": cl.METHOD,
    "codistillation": codistillation.METHOD,
    "one": one.METHOD,
    "okddip": okddip.METHOD,
    "kdcl": kdcl.METHOD,
    "dualnet": dualnet.METHOD,
    "dcm": dcm.METHOD,
    "pcl": pcl.METHOD,
    "dks": dks.METHOD,
    "byot": byot.METHOD,
    "multi_exit": multi_exit.METHOD,
    "kd": kd.METHOD,
    "fitnets": fitnets.METHOD,
    "at": at.METHOD,
    "rkd": rkd.METHOD,
    "crd": crd.METHOD,
    "independent": independent.METHOD,
}
