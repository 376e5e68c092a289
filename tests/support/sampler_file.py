"""A user's own samplers, and things that are none."""

import optuna


class Corner(optuna.samplers.RandomSampler):
    """Takes a seed, as Optuna's samplers do; numbers are the highest there are."""

    def sample_independent(self, study, trial, param_name, param_distribution):
        if hasattr(param_distribution, "high"):
            return param_distribution.high
        return super().sample_independent(study, trial, param_name, param_distribution)


class WithoutSeed(optuna.samplers.BruteForceSampler):
    def __init__(self) -> None:
        super().__init__(seed=1)


def population_of_four(seed):
    return optuna.samplers.NSGAIISampler(seed=seed, population_size=4)


def not_a_sampler(seed):
    return seed


def broken(seed):
    raise RuntimeError("out of luck")


class OfOneObjective(optuna.samplers.CmaEsSampler):
    pass
