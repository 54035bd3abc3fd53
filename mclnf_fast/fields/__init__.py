"""Banks of fields: parameters, routing, modules to and from torch, tensors on disk."""

from mclnf_fast.fields.bank import FieldBank
from mclnf_fast.fields.dataset import FieldDataset
from mclnf_fast.fields.functional import encode_grids, evaluate_params, split_params
from mclnf_fast.fields.initial import initial_parameters
from mclnf_fast.fields.io import load_bank, load_meta, load_tensors, save_bank, save_tensors
from mclnf_fast.fields.join import join_banks
from mclnf_fast.fields.module import FieldModule
from mclnf_fast.fields.routing import route

__all__ = [
    "FieldBank",
    "FieldDataset",
    "FieldModule",
    "encode_grids",
    "evaluate_params",
    "initial_parameters",
    "join_banks",
    "load_bank",
    "load_meta",
    "load_tensors",
    "route",
    "save_bank",
    "save_tensors",
    "split_params",
]
