"""The methods that are compared, each one short file, and the one table of them: `METHODS`."""

from mclnf_fast.learn.methods.base import AdaptConfig, AdaptOptions, Method
from mclnf_fast.learn.methods.er import ER
from mclnf_fast.learn.methods.ewc import EWC
from mclnf_fast.learn.methods.finetune import FineTune
from mclnf_fast.learn.methods.maml_cl import MAMLCL
from mclnf_fast.learn.methods.maml_offline import MAMLOffline
from mclnf_fast.learn.methods.mim import MIM
from mclnf_fast.learn.methods.mim_weight import MIMWeight
from mclnf_fast.learn.methods.mod import Mod
from mclnf_fast.learn.methods.mod_even import ModEven
from mclnf_fast.learn.methods.mod_random import ModRandom
from mclnf_fast.learn.methods.offline import Offline
from mclnf_fast.learn.methods.oml import OML
from mclnf_fast.learn.methods.table import (
    METHODS,
    MethodEntry,
    check_methods,
    entry,
    entry_of,
    register_method,
    unread_options,
)

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
    "MethodEntry",
    "Mod",
    "ModEven",
    "ModRandom",
    "Offline",
    "check_methods",
    "entry",
    "entry_of",
    "register_method",
    "unread_options",
]
