"Losses, metrics, optimisers, callbacks, Learners and baselines. Imports the ground, `data` and `models`."
