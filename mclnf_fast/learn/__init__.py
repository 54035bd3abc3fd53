"""Learning over banks: Fisher information, meta-learning, the bank optimizer, metrics. Knows no cameras and
no rays.
"""

from mclnf_fast.learn.budgets import Budgets
from mclnf_fast.learn.fisher.fim import fim_weights, module_mse, weighted_mse
from mclnf_fast.learn.fisher.fisher import (
    RunningFisher,
    diagonal_fisher_scores,
    full_fisher_scores,
    rank1_fisher_scores,
    relative_damping,
)
from mclnf_fast.learn.fisher.scores import FimConfig, FisherScorer, Scored, fim_loss_weights
from mclnf_fast.learn.fisher.theory import clipped_weights, fisher_quadratic, weighted_sgd_bound
from mclnf_fast.learn.fit.options import FitOptions
from mclnf_fast.learn.fit.source import Samples, SampleSource, Skipped
from mclnf_fast.learn.fit.summary import FitProgress, FitSummary
from mclnf_fast.learn.meta.adapt import adapt, fine_tune
from mclnf_fast.learn.meta.config import MetaConfig
from mclnf_fast.learn.meta.episodes import DrawnEpisodes, Episode, TaskEpisodes
from mclnf_fast.learn.meta.gradncp import GradNCP, PrunedContext, keep_top, prune_scores, rescale
from mclnf_fast.learn.meta.inits import constant, matched, shuffled
from mclnf_fast.learn.meta.meta import MAML, MetaLearner, Reptile
from mclnf_fast.learn.meta.trainer import MetaTrainer
from mclnf_fast.learn.methods import METHODS, AdaptConfig, Method, MethodEntry, register_method
from mclnf_fast.learn.methods.reservoir import Reservoir
from mclnf_fast.learn.optim import BankOptimizer
from mclnf_fast.learn.params import LossFn, Params, flatten_pair, split_pair
from mclnf_fast.learn.protocol import Plan, Protocol
from mclnf_fast.learn.sampled import SampledLoss, StepSamples, drawn_loss
from mclnf_fast.learn.sampling.even import EvenSampler, hilbert_order
from mclnf_fast.learn.sampling.sampling import FisherSampler
from mclnf_fast.learn.task import ScoredTask, Task, join
from mclnf_fast.metrics import (
    StepCurve,
    average,
    backward_transfer,
    forgetting,
    log_steps,
    measures,
    mse_to_psnr,
    psnr,
    si_sdr,
    ssim,
    steps_to_reach,
)
from mclnf_fast.ops.bank_step import Trust

__all__ = [
    "MAML",
    "METHODS",
    "AdaptConfig",
    "BankOptimizer",
    "Budgets",
    "DrawnEpisodes",
    "Episode",
    "EvenSampler",
    "FimConfig",
    "FisherSampler",
    "FisherScorer",
    "FitOptions",
    "FitProgress",
    "FitSummary",
    "GradNCP",
    "LossFn",
    "MetaConfig",
    "MetaLearner",
    "MetaTrainer",
    "Method",
    "MethodEntry",
    "Params",
    "Plan",
    "Protocol",
    "PrunedContext",
    "Reptile",
    "Reservoir",
    "RunningFisher",
    "SampleSource",
    "SampledLoss",
    "Samples",
    "Scored",
    "ScoredTask",
    "Skipped",
    "StepCurve",
    "StepSamples",
    "Task",
    "TaskEpisodes",
    "Trust",
    "adapt",
    "average",
    "backward_transfer",
    "clipped_weights",
    "constant",
    "diagonal_fisher_scores",
    "drawn_loss",
    "fim_loss_weights",
    "fim_weights",
    "fine_tune",
    "fisher_quadratic",
    "flatten_pair",
    "forgetting",
    "full_fisher_scores",
    "hilbert_order",
    "join",
    "keep_top",
    "log_steps",
    "matched",
    "measures",
    "module_mse",
    "mse_to_psnr",
    "prune_scores",
    "psnr",
    "rank1_fisher_scores",
    "register_method",
    "relative_damping",
    "rescale",
    "shuffled",
    "si_sdr",
    "split_pair",
    "ssim",
    "steps_to_reach",
    "weighted_mse",
    "weighted_sgd_bound",
]
