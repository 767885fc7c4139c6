"""Find, identify and remove backdoors in image classifiers.

    from detrigger.load import load_classifier, load_images
    from detrigger.scan import scan
    from detrigger.clean import clean

The names are not repeated here: verbs share them with their modules, and the command line must start
without importing torch.
"""
