"What a notebook needs to prepare, pre-train, fine-tune and evaluate: `from refers_nb.all import *`"
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from .calibrate import recalibrate
from .core import InputError, get_device, get_dtype
from .data.card import describe, plot_studies
from .data.copies import duplicates
from .data.labeller import label_report, label_reports, labels_from
from .data.loaders import (
    Augment, LabelDataLoaders, LabelItems, StudyDataLoaders, StudyItems, Views, label_dls, study_dls)
from .data.prepare import prepare
from .data.radiograph import load_radiograph, read_radiograph
from .data.report import findings_impression, read_report, sections, sentences, swap_sides
from .data.sources.phantom import phantom_set
from .data.store import ImageStore
from .data.studies import check_studies, label_fraction, label_names, patient_folds, read_studies, write_studies
from .data.tokens import EncoderTokenizer, TensorReport, Tokenizer
from .evaluation.attend import gradient_attention, rollout, show_maps, word_attention
from .evaluation.calibration import calibration_error, metrics_table, plot_reliability, plot_roc
from .evaluation.clinical import clinical_f1, compare_writers, report_metrics
from .evaluation.compare import efficiency_tests, evaluate_runs
from .evaluation.experiments import efficiency_table, label_efficiency, plot_label_efficiency
from .evaluation.generate import show_written, written_reports
from .evaluation.published import beside_published, published_view
from .evaluation.represent import embed_studies, probe, retrieval
from .evaluation.search import SearchIndex, show_hits
from .evaluation.statistics import auroc_table, delong_test
from .evaluation.zeroshot import zero_shot
from .models.generate import generate
from .models.hub import from_pretrained, load_checkpoint, load_encoder, push_to_hub, save_checkpoint
from .models.opening import open_start
from .models.refers import Refers, refers_config, refers_model
from .models.vision import VisionEncoder, vision_encoder
from .phantom import Phantoms, phantoms
from .predict import predict
from .settings import settings
from .training.baselines import baseline, baselines
from .training.callbacks import Checkpoint, Precision, SaveHistory
from .training.classifier import Classifier, ClassifierLearner
from .training.finetune import finetune, finetune_learner
from .training.interpret import MultiLabelInterpretation
from .training.losses import RefersLoss, generation_loss, info_nce
from .training.metrics import auroc, linear_probe, macro_auroc, recall_at
from .training.optim import adamw, paper_sgd, warmup_cosine
from .training.pretrain import PHANTOM_RECIPE, pretrain, pretrain_learner
from .training.reports import ReportLearner
from .training.tensorboard import TensorBoardLogger
