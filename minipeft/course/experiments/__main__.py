"""python -m minipeft.experiments NAME, or: python -m minipeft.experiments claims"""

import sys

from minipeft.course.experiments import CLAIMS, EXPERIMENTS, claims
from minipeft.course.experiments.runner import main

if sys.argv[1:] == ["claims"]:
    print(claims.write(CLAIMS, list(EXPERIMENTS.values())))
else:
    sys.exit(main(EXPERIMENTS))
