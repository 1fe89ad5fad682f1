"""REFERS in notebooks: chest radiograph encoders that learn from free-text reports

The house has layers, and imports point downwards only:

| package | holds | may import |
|---|---|---|
| `refers_nb` | errors, settings, the record of a run; `phantom`: drawn studies with true reports | nothing above |
| `refers_nb.data` | files, reports, study tables, image stores, loaders; `sources`: one module per data set | the ground |
| `refers_nb.models` | modules of torch, files of weights, how reports are written | the ground, `data` |
| `refers_nb.training` | losses, metrics, optimisers, callbacks, Learners, baselines | what is below |
| `refers_nb.evaluation` | statistics, fairness, written reports, representations, experiments | what is below |
| `refers_nb.demo`, `refers_nb.comparison`, `refers_nb.export`, `refers_nb.ask` | the demo, starts compared, a model as an ONNX file, studies asked in words | everything |
| `refers_nb.cli`, `refers_nb.terminal` | the commands: arguments in, one call, words out | everything; nobody imports them |

`from refers_nb.all import *` gives a notebook what it needs to prepare, pre-train, fine-tune and evaluate.
"""
__version__ = '0.1.0'
