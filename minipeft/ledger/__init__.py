"""What a training step costs: parameters, bytes and FLOPs, predicted and then measured.

The prediction runs one step, forward and backward, on shapes alone (meter.py): the same
modules, tape and walk as in training, with every array replaced by its size. So it needs no
values: `GPT(preset("gpt3-175b"), init="shape")` takes no memory. What an operation keeps is
written in cost.py as its mathematics has it; `measure` then takes a real step and traces
every allocation of an array. Where the two disagree, an operation's code keeps what it need not,
and the table of operations says which. papers.py and printed.py put the numbers of published
tables beside what is counted here.
"""

from minipeft.ledger.papers import Paper, Row
from minipeft.ledger.printed import PAPERS, get_paper
from minipeft.ledger.step import check_fits, example, measure, predict
from minipeft.ledger.table import Ledger

__all__ = [
    "PAPERS",
    "Ledger",
    "Paper",
    "Row",
    "check_fits",
    "example",
    "get_paper",
    "measure",
    "predict",
]
