"""A curve in a notebook that is drawn while a model trains."""

import time

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display

from .style import colour

EVERY = 1.0  # seconds between drawings


class LiveCurve:
    """Lines that grow while a cell runs, one for each label; the finished figure stays as the cell's output.

    Args:
        xlabel, ylabel: labels of the axes.
    """

    def __init__(self, xlabel: str, ylabel: str):
        self.figure, axis = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
        plt.close(self.figure)  # the cell must not show it a second time
        axis.set(xlabel=xlabel, ylabel=ylabel)
        self.axis, self.drawn = axis, time.monotonic()
        self.output = display(self.figure, display_id=True)

    def add(self, label: str, x: float, y: float) -> None:
        """Append a point to a line; the figure is drawn again if the last drawing is a second ago."""
        lines = {line.get_label(): line for line in self.axis.get_lines()}
        if label not in lines:
            lines[label] = self.axis.plot([], [], color=colour(label), label=label)[0]
            self.axis.legend(frameon=False)
        line = lines[label]
        line.set_data(np.append(line.get_xdata(), x), np.append(line.get_ydata(), y))
        if time.monotonic() - self.drawn > EVERY:
            self.draw()

    def draw(self) -> None:
        """Draw all points so far."""
        self.axis.relim()
        self.axis.autoscale_view()
        if self.output:  # there is none outside of a notebook
            self.output.update(self.figure)
        self.drawn = time.monotonic()
