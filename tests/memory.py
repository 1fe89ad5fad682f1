"What tests share that need no file: an image store in memory"
import numpy as np


class Store:
    "Images in memory, found by path"
    def __init__(self, images, paths):
        self.images = images
        self.at = {path: i for i,path in enumerate(paths)}

    def rows(self, paths): return np.array([self.at[path] for path in paths])
