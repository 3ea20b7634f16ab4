"""All rules by name, in the order in which they are listed."""

from compress.rewriting.rule import Rule
from compress.rewriting.rules_activation import ACTIVATION_RULES
from compress.rewriting.rules_attention import ATTENTION_RULES
from compress.rewriting.rules_block import BLOCK_RULES
from compress.rewriting.rules_convolution import CONVOLUTION_RULES

RULES: dict[str, Rule] = {
    rule.name: rule for rule in (*CONVOLUTION_RULES, *ACTIVATION_RULES, *ATTENTION_RULES, *BLOCK_RULES)
}

__all__ = ["RULES", "Rule"]
