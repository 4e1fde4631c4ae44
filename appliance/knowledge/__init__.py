"""What is known, beside the line: ATT&CK techniques with a FAISS index over their texts. Built
once (`build`), opened verified (`base`), asked by text (`search`) or by technique id. The only
folder that imports faiss, and only when a base is opened or built."""
