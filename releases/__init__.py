"""How the files of every release are read, checked and exported. The dataset made of them is `affectnet_plus`."""
