"""The names of the files in a checkpoint directory."""

CONFIG = "training_config.json"
RESULTS = "training_results.json"
HISTORY = "training_history.csv"
BEST_MODEL = "best_model.keras"  # what predicts; of several classifiers, their mean
MEMBER_MODEL = "first_member.keras"  # of several classifiers, the one whose epochs are here
MEMBER = "member_"  # begins the folders of the second classifier and those after it
TEACHER = "teacher_"  # begins the folders of the teachers whose predictions become pseudo-labels
PSEUDO_LABELS = "pseudo_labels.csv"
PRETRAINED = "pretrained.npz"  # weights of the network from pixels after --pretrain
TAKEN = "taken.json"  # in a teacher's folder: the pseudo-labels of its round
LOG = "training.log"
WORKER_LOG = "training-worker-{}.log"  # of the workers beside the chief, by number
EXPERIMENTS_LOG = "experiments.log"
TENSORBOARD = "tensorboard"
SESSION = "hparams"  # a folder in it: settings and figures of the run, for the table of runs
# TensorBoard reads the files of a folder in the order of their names.
HPARAMS_BEGUN = f"{SESSION}/events.out.tfevents.0.settings"  # written before the first epoch
HPARAMS = f"{SESSION}/events.out.tfevents.hparams"  # written at the end
SPLITS_FILE = "splits.csv"
PREDICTIONS = "predictions.csv"
REPORT = "report.html"
PLOTS = "plots"
MODEL_CARD, MODEL_CARD_JSON = MODEL_CARDS = "model_card.md", "model_card.json"
RESUME = "resume"
STATE, STATE_BEFORE = "state.json", "state_before.json"  # after the last epoch, the one before
MODELS = "models.json"  # the checksums of the models
DETECTOR = "detector.json"
LEAKAGE = "leakage.csv"
EVENT_FIGURES = "event_figures"  # a folder: predictions over long videos against annotated events
EVENT_FIGURES_FILE = "event_figures.json"  # in it
LABEL_ISSUES = "label_issues.csv"  # of a run with folds, or of a cross-validation


def checkpoint_name(epoch: int) -> str:
    """Return the file name of a periodic checkpoint; the first epoch is 1."""
    return f"checkpoint_epoch_{epoch:03d}.keras"
