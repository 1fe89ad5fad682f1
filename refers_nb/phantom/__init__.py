"Drawn chest studies whose reports are true of them. Imports `refers_nb.core` alone."
from .phantoms import Phantoms, phantoms
