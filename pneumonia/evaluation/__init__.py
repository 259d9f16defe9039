"""How good it is: metrics, figures, and Grad-CAM, on plain arrays and tensors."""
