"Files, reports, study tables, image stores and loaders. Imports the ground: `core`, `settings`, `runs`, `phantom`."
