"""What is known, beside the line: entries with their links, found by id, by words and by meaning.
Built from what packages and we ourselves bring (`build`), added to by the operator (`imports`),
opened verified (`base`), asked in words (`search`). The only folder that imports faiss, and only
when a base is opened or built."""
