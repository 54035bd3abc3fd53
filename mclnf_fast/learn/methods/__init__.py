"""The methods that are compared, each one short file: `METHODS` by name, in the order of MCL-NF's Table 1."""

from mclnf_fast.learn.methods.base import AdaptConfig, AdaptOptions, Method
from mclnf_fast.learn.methods.er import ER
from mclnf_fast.learn.methods.ewc import EWC
from mclnf_fast.learn.methods.finetune import FineTune
from mclnf_fast.learn.methods.maml_cl import MAMLCL
from mclnf_fast.learn.methods.maml_offline import MAMLOffline
from mclnf_fast.learn.methods.mim import MIM
from mclnf_fast.learn.methods.mim_weight import MIMWeight
from mclnf_fast.learn.methods.mod import Mod
from mclnf_fast.learn.methods.mod_random import ModRandom
from mclnf_fast.learn.methods.offline import Offline
from mclnf_fast.learn.methods.oml import OML

METHODS: dict[str, type[Method]] = {
    "offline": Offline,
    "finetune": FineTune,
    "er": ER,
    "ewc": EWC,
    "maml_cl": MAMLCL,
    "maml_offline": MAMLOffline,
    "oml": OML,
    "mod": Mod,
    "mim": MIM,
    "mim_weight": MIMWeight,
}

__all__ = [
    "ER",
    "EWC",
    "MAMLCL",
    "METHODS",
    "MIM",
    "OML",
    "AdaptConfig",
    "AdaptOptions",
    "FineTune",
    "MAMLOffline",
    "MIMWeight",
    "Method",
    "Mod",
    "ModRandom",
    "Offline",
]
