"From a raw download to a study table, one module per data set; `raw` is what they share. Imports the ground and `refers_nb.data`."
