"""What is learnt from: folders of X-rays, their patients, splits, and decoded pixels."""
