"What tests share that need no file: an image store in memory"
import numpy as np


class Store:
    "Images in memory, found by path"
    def __init__(self, images, paths): self.images,self.at = images,{p: i for i,p in enumerate(paths)}
    def rows(self, paths): return np.array([self.at[p] for p in paths])
