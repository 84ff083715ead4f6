"""nano, the embedded model: 9 MB that answer on any computer. It is a model folder like any other:
config.json, adapter.safetensors and two backbones in official form. pretrain.py made the backbones;
only who makes nano anew needs it.
"""
