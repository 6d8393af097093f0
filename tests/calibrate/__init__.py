"""Statistics over data: what every parameter meets, and gradients."""
