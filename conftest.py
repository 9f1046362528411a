"""Root of the test session: an uninstalled checkout can test itself, and shadows nobody."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
