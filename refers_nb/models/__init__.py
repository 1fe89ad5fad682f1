"Modules of torch, and files of weights. Imports the ground, and of `refers_nb.data` the tokens."
