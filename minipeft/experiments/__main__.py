"""python -m minipeft.experiments NAME"""

import sys

from minipeft.experiments import EXPERIMENTS
from minipeft.experiments.runner import main

sys.exit(main(EXPERIMENTS))
