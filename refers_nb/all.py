"What a notebook needs to prepare, pre-train, fine-tune and evaluate: `from refers_nb.all import *`"
