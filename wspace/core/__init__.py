"""The core: Transform, Fold, Implicit, Axes, the combinators, the executors. Its names are `ws.chain`, `ws.plan`, ..."""
