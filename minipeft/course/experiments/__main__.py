"""python -m minipeft.experiments NAME, or: claims, or: confirm NAME ..."""

import sys

from minipeft.course.experiments import CLAIMS, EXPERIMENTS, claims, confirmation
from minipeft.course.experiments.runner import main

if sys.argv[1:] == ["claims"]:
    print(claims.write(CLAIMS, list(EXPERIMENTS.values())))
elif sys.argv[1:2] == ["confirm"]:
    sys.exit(confirmation.main(EXPERIMENTS, sys.argv[2:]))
else:
    sys.exit(main(EXPERIMENTS))
