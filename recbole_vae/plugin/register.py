"""All that recbole_vae changes in RecBole and other libraries, and :func:`register`.

Each change is made when the module that has the place is imported, by the file of ``plugin/`` that the table names.

==================================================================  ===========  =================================================
Place                                                               File         What is changed
==================================================================  ===========  =================================================
``sys.meta_path``                                                   get_model    RecBole's ``get_model`` finds the modules below
``recbole.model.general_recommender.<name>``                        get_model    modules that hold the registered models
``recbole.utils.utils.SummaryWriter``                               compat       imported when it is first used
``recbole.utils.utils.pd``                                          compat       likewise
``recbole.evaluator.metrics.sk_auc``                                compat       likewise
``recbole.evaluator.metrics.mean_absolute_error``                   compat       likewise
``recbole.evaluator.metrics.mean_squared_error``                    compat       likewise
``recbole.model.general_recommender.nceplrec.randomized_svd``       compat       likewise
``recbole.model.general_recommender.slimelastic.ElasticNet``        compat       likewise
``recbole.utils.utils.ensure_dir``                                  ensure_dir   several processes may make the same folder
``recbole.config.configurator.Config._load_config_files``           config       an error in a config file names it and the line
``recbole.config.configurator.Config._load_internal_config_dict``   config       defaults of registered models, checked options
``recbole.config.configurator.Config._init_device``                 config       the GPU that was asked for, or the CPU
``recbole.config.configurator.Config._load_cmd_line``               cmd_line     arguments of other programs are left alone
``recbole.config.configurator.Config._convert_config_dict``         cmd_line     what cannot be evaluated is YAML or text
``recbole.config.configurator.Config._get_model_and_dataset``       get_model    a misspelt model is refused by name
``recbole.data.dataset.<Name>Dataset``                              config       the data set of a registered model
``recbole.trainer.<Name>Trainer``                                   config       the trainer of a registered model
``recbole.quick_start.quick_start.init_logger``                     quick_start  a log says whose class runs
``recbole.quick_start.quick_start.run_recboles``                    quick_start  child processes know the registered models
``recbole.quick_start.quick_start.run_recbole``                     quick_start  joins the processes that torchrun started
``recbole.data.utils.create_dataset``                               data_utils   held-out users; no saved data set unseen
``recbole.data.utils.create_samplers``                              data_utils   no sampler where nothing is sampled
``recbole.data.utils.save_split_dataloaders``                       data_utils   records what they were made from
``recbole.data.utils.load_split_dataloaders``                       data_utils   only if they would be made the same
``recbole.data.utils.get_dataloader``                               data_utils   batches of users to train; faster evaluation
``recbole.trainer.trainer.Collector``                               trainer      faster, unless ``fast_evaluation: False``
``recbole.trainer.trainer.Evaluator``                               trainer      likewise; metrics of lists are exact
``recbole.trainer.trainer.DistributedDataParallel``                 trainer      several processes without a GPU
``recbole.trainer.trainer.get_tensorboard``                         trainer      one of several processes writes
``recbole.trainer.trainer.Trainer.fit``                             trainer      a hash of the data; evaluates one epoch; out
``recbole.trainer.trainer.NCLTrainer.fit``                          trainer      likewise
``recbole.trainer.trainer.Trainer.evaluate``                        trainer      held-out users are scored by their fold-in
``recbole.trainer.hyper_tuning.np``                                 hypertuning  hyperopt's random numbers, for ``exhaustive``
``recbole.trainer.hyper_tuning.exhaustive_search``                  hypertuning  finds every combination, however many
``recbole.trainer.hyper_tuning.HyperTuning.__init__``               hypertuning  ``exhaustive`` refuses ranges
``recbole.trainer.hyper_tuning.HyperTuning.run``                    hypertuning  nothing is overruled or left out unsaid
``recbole.trainer.hyper_tuning.HyperTuning.trial``                  hypertuning  refuses to vary what has no effect
``recbole.utils.case_study.full_sort_scores``                       case_study   says which data it needs; held-out items
``recbole.evaluator.register.metrics_dict``                         evaluator    the metric TruncatedRecall
``recbole.evaluator.register.metric_types``                         evaluator    likewise
``recbole.evaluator.register.metric_information``                   evaluator    likewise; TailPercentage knows all items
``recbole.model.general_recommender.nceplrec.NCEPLRec.__init__``    nceplrec     keeps the projection of new users
``recbole.quick_start.quick_start.tune``                            compat       a stand-in where ``ray`` cannot be imported
``recbole.config.configurator.Config.compatibility_settings``       compat       whole process: ``np.float`` and other old names
``recbole.data.dataset.dataset.Dataset._fill_nan``                  compat       missing values are filled under pandas 3
``recbole.data.dataset.dataset.pd``                                 compat       ``read_csv`` reads as before pandas 3
``recbole.data.dataset.dataset.pd``                                 load_feat    ``read_csv`` takes cells as they are written
``recbole.data.dataset.dataset.Dataset._from_scratch``              dataset      a saved one only if it would be made the same
``recbole.data.dataset.dataset.Dataset.save``                       dataset      records what it was made from
``recbole.data.dataset.dataset.Dataset._load_feat``                 load_feat    likewise; errors name file and line
``recbole.data.dataset.dataset.Dataset._load_feat``                 dataset      times are read exactly, also ISO dates
``recbole.data.dataset.dataset.Dataset._load_inter_feat``           dataset      Parquet; times that an order needs; repeats
``recbole.data.dataset.dataset.Dataset._filter_nan_user_or_item``    dataset      drops the right lines, and says how many
``recbole.data.dataset.dataset.Dataset._filter_by_field_value``     dataset      also by users and items; repeats are dropped
``recbole.data.dataset.dataset.Dataset._filter_by_inter_num``       dataset      counts without objects
``recbole.data.dataset.dataset.Dataset._data_filtering``            dataset      times that an order needs are not missing
``recbole.data.dataset.dataset.Dataset._remap``                     dataset      numbers tokens without objects
``recbole.data.dataset.dataset.Dataset._fill_nan``                  dataset      says where values are missing
``recbole.data.dataset.dataset.Dataset._normalize``                 dataset      times stay as they are
``recbole.data.dataset.dataset.Dataset._dataframe_to_interaction``  dataset      times have 64 bits
``recbole.data.dataset.dataset.Dataset.split_by_ratio``             dataset      splits users without a loop over interactions
``recbole.data.dataset.dataset.Dataset.leave_one_out``              dataset      likewise; says so if it leaves a random one out
``recbole.data.interaction.Interaction.__getitem__``                dataset      takes rows by arrays, without lists
``recbole.data.interaction.Interaction._reindex``                   dataset      likewise
``recbole.data.dataset.dataset.Dataset.time_based_split``           dataset      no test interaction lies before the boundary
``recbole.data.dataset.dataset.Dataset.build``                      dataset      says gaps of the split; drops label 0; joins
``pandas.Series.agg``                                               compat       whole process, but only calls from RecBole differ
``scipy.sparse.dok_matrix._update``                                 compat       whole process: a method that scipy dropped
``torch.load``                                                      compat       whole process, but only calls from RecBole differ
==================================================================  ===========  =================================================

Nothing is written into RecBole's folder. The code of RecBole's own models stays as it is. Their data (times, ids, repeats) are
read exactly, and their evaluation is faster.
"""

from __future__ import annotations

import functools
import sys
from importlib import import_module
from typing import Any

from recbole_vae.model.registry import places
from recbole_vae.plugin.get_model import ModelFinder, problem_of
from recbole_vae.plugin.import_hooks import after_import, during_import
from recbole_vae.plugin.recbole_version import check_recbole, refuse_names_of_recbole


def register(*models: type) -> None:
    """Make models known by the names of their classes; this package's own are registered when it is imported.

    Args:
        models: subclasses of :class:`recbole_vae.model.base.HistoryRecommender`, or of RecBole's ``GeneralRecommender`` or
            another of its kinds. The fields of a HistoryRecommender's ``config_class`` are its options; those that
            RecBole does not have need a default. The others may have default options in a class attribute ``defaults``, a
            dictionary. RecBole trains them as it would the RecBole model that they are derived from, if any; the values of
            their options are not checked. If their ``predict`` gives probabilities of a label,
            ``scores_are_probabilities = True`` lets LogLoss, MAE and RMSE measure them.

    Raises:
        ValueError: RecBole or this package has a model of that name.
        TypeError: a class is no recommender, lacks a method, or its ``defaults`` are no dictionary.
        RecBoleVersionError: RecBole is not one that the hooks fit; raised when RecBole is imported, or here if it already is.
    """
    _hook_recbole()
    for model in models:
        called = f"{getattr(model, '__module__', '')}.{getattr(model, '__name__', repr(model))}"
        problem = problem_of(model)
        if problem:
            raise TypeError(f"cannot register {called}: {problem}.")
        name = model.__name__
        if places.get(name.lower(), model) is not model:
            raise ValueError(f"cannot register {called}: recbole_vae has a model of that name already.")
        refuse_names_of_recbole(name, called)
        places[name.lower()] = model


_CHANGES = (
    ("recbole.utils.utils", "compat:torch_load_refuses_recboles_checkpoints"),
    ("recbole.utils.utils", "compat:scipy_dok_matrix_lost_update"),
    ("recbole.utils.utils", "ensure_dir:hook"),
    ("recbole.config.configurator", "compat:numpy_lost_aliases"),
    ("recbole.config.configurator", "config:hook"),
    ("recbole.config.configurator", "cmd_line:hook"),
    ("recbole.config.configurator", "get_model:hook"),
    ("recbole.quick_start.quick_start", "quick_start:hook"),
    ("recbole.data.dataset.dataset", "compat:pandas_fills_a_copy"),
    ("recbole.data.dataset.dataset", "compat:pandas_strings_are_not_objects"),
    ("recbole.data.dataset.dataset", "compat:pandas_agg_does_not_map"),
    ("recbole.data.dataset.dataset", "load_feat:hook"),
    ("recbole.data.dataset.dataset", "dataset:hook"),
    ("recbole.data.utils", "data_utils:hook"),
    ("recbole.trainer.trainer", "trainer:hook"),
    ("recbole.trainer.hyper_tuning", "hypertuning:hook"),
    ("recbole.utils.case_study", "case_study:hook"),
    ("recbole.evaluator.register", "evaluator:hook"),
    ("recbole.model.general_recommender.nceplrec", "nceplrec:hook"),
)
"""Modules, and what is called with each when it is imported: a file of ``plugin/`` and its function."""


@functools.cache
def _hook_recbole() -> None:
    """Arrange for all changes, once."""
    sys.meta_path.insert(0, ModelFinder())
    during_import("recbole.utils.utils", functools.partial(_change, "compat:tensorboard_and_pandas_take_long"))
    for module in ("evaluator.metrics", "model.general_recommender.nceplrec", "model.general_recommender.slimelastic"):
        during_import(f"recbole.{module}", functools.partial(_change, "compat:sklearn_takes_long"))
    during_import("recbole.quick_start.quick_start", functools.partial(_change, "compat:ray_cannot_be_imported"))
    after_import("recbole", check_recbole)
    for module, change in _CHANGES:
        after_import(module, functools.partial(_change, change))


def _change(change: str, *arguments: Any) -> Any:
    file, _, function = change.partition(":")
    return getattr(import_module(f"recbole_vae.plugin.{file}"), function)(*arguments)
