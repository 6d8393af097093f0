"""Embedded real data and the small real models the project trains and measures on. Nothing here is downloaded.

    digits       scikit-learn's handwritten digits as a tensorflow-datasets array_record (extra: data)
    tasks        small classifiers of them: a base and fine-tunes that know different classes
    minilm       a real sentence encoder in plain JAX, from a Hugging Face folder (a package installed by hand)
    docstrings   the retrieval task it is measured on

Import the module you want: `from wspace.data import digits`.
"""
