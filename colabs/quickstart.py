# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Weight space in five minutes
#
# Every method of `wspace` is a pure function over parameter pytrees. This notebook composes some on a toy matrix, then
# merges three fine-tunes of a small classifier of handwritten digits and makes the result small. It runs top to bottom
# on a CPU in under a minute and downloads nothing.

# %%
# In Colab, first: pip install "wspace[demo]"
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import wspace as ws
from wspace.data import digits, tasks

# %% [markdown]
# ## A matrix
#
# A `Transform` takes trees and gives a tree. `chain` puts one after another, `on` selects leaves by path.

# %%
w = {"kernel": jax.random.normal(jax.random.key(0), (8, 4)), "bias": jnp.zeros(4)}
t = ws.chain(ws.on("kernel", ws.prune.magnitude(0.5)), ws.on("kernel", ws.quant.rtn(bits=4)))
small = t(w)
ws.materialize(small)["kernel"].round(2)

# %% [markdown]
# The plan says what happens to which leaf and what it costs; nothing is computed for it.

# %%
ws.plan(t, w)

# %% [markdown]
# Numbers such as the sparsity are traced, so `vmap` sweeps over them and `grad` goes through them.

# %%
sparsities = jnp.linspace(0, 1, 11)
errors = jax.vmap(lambda s: jnp.linalg.norm(ws.prune.magnitude(s)(w)["kernel"] - w["kernel"]))(sparsities)
plt.figure(figsize=(5, 2.5))
plt.plot(sparsities, errors)
plt.xlabel("sparsity")
plt.ylabel("distance")

# %% [markdown]
# ## A model: three fine-tunes of one base
#
# Each fine-tune sees all images of some classes and few of the others.

# %%
images, labels = digits.load("train")
test = digits.load("test")
model = tasks.classifier()
init, *keys = jax.random.split(jax.random.key(0), 5)
start = model.init(init, jnp.zeros((1, 64)))
base = tasks.train(model.apply, start, *tasks.starter(images, labels), steps=250, lr=1e-3, key=keys[0])
tuned = [
    tasks.train(model.apply, base, *tasks.part(images, labels, classes), steps=250, lr=1e-3, key=key)
    for classes, key in zip(tasks.PARTS, keys[1:], strict=True)
]


def accuracy(params):
    return float(tasks.accuracy(model.apply, params, *test))


print("base", accuracy(base), "fine-tunes", [accuracy(p) for p in tuned])

# %% [markdown]
# ## Merge, prune, quantize: one Transform

# %%
recipe = ws.chain(
    ws.merge.ties(density=0.5),
    ws.on("kernel$", ws.prune.magnitude(0.5)),
    ws.on("kernel$", ws.quant.rtn(bits=4, group=32)),
)
params = recipe(*tuned, base=base)
print("merged, pruned, 4 bits:", accuracy(ws.materialize(params)))
print(ws.measure.ledger(base, params))

# %% [markdown]
# ## The path from the base to the merged model

# %%
merged = ws.merge.ties(density=0.5)(*tuned, base=base)
path = ws.interpolate.segment(base, merged)
ts = jnp.linspace(0, 1.5, 16)
plt.figure(figsize=(5, 2.5))
plt.plot(ts, [accuracy(path(t)) for t in ts], marker="o", ms=3)
plt.xlabel("t: 0 is the base, 1 the merged model")
plt.ylabel("test accuracy")

# %% [markdown]
# ## A method of your own
#
# A pure function on arrays and a factory are all it takes; it composes like the others.


# %%
def sign_descent(step):
    """Move every weight a step towards zero."""
    return ws.leafwise("sign_descent", lambda leaves, ctx: leaves[0] - step * jnp.sign(leaves[0]))


accuracy(ws.chain(ws.merge.task_arithmetic(lam=0.5), sign_descent(1e-3))(*tuned, base=base))
