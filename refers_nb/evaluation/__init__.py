"Statistics, fairness, written reports, representations and experiments. Imports everything but the commands."
