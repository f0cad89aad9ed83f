"""An LSTM that reads an image from the top, a row of pixels at a time.

onnxmx train examples/mnist_rows.py:net --data mnist --epochs 3 --lr 3e-3
"""

from onnxmx import layers as L

net = L.Sequential(L.Reshape(28, 28), L.LSTM(128, return_sequences=False), L.Dense(10))
