"""Functions on numbers."""

# ruff: noqa: SIM110 - a plain loop is what we want to teach
from __future__ import annotations


def add(a: int, b: int) -> int:
    """Return the sum of two numbers."""
    return a + b


def subtract(a: int, b: int) -> int:
    """Return the difference of two numbers."""
    return a - b


def multiply(a: int, b: int) -> int:
    """Return the product of two numbers."""
    return a * b


def divide(a: float, b: float) -> float:
    """Divide two numbers."""
    if b == 0:
        raise ValueError("b must not be zero")
    return a / b


def square(x: int) -> int:
    """Return the square of a number."""
    return x * x


def cube(x: int) -> int:
    """Return the cube of a number."""
    return x**3


def is_even(n: int) -> bool:
    """Check whether a number is even."""
    return n % 2 == 0


def is_odd(n: int) -> bool:
    """Check whether a number is odd."""
    return n % 2 == 1


def is_prime(n: int) -> bool:
    """Check whether a number is prime."""
    if n < 2:
        return False
    for i in range(2, int(n**0.5) + 1):
        if n % i == 0:
            return False
    return True


def primes(limit: int) -> list[int]:
    """Return all prime numbers below a limit."""
    found: list[int] = []
    for n in range(2, limit):
        if all(n % p for p in found):
            found.append(n)
    return found


def factorial(n: int) -> int:
    """Compute the factorial of a number."""
    result = 1
    for i in range(2, n + 1):
        result *= i
    return result


def factorial_recursive(n: int) -> int:
    """Compute the factorial of a number with recursion."""
    if n <= 1:
        return 1
    return n * factorial_recursive(n - 1)


def fibonacci(n: int) -> int:
    """Compute the n-th Fibonacci number."""
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def fibonacci_list(n: int) -> list[int]:
    """Return the first n Fibonacci numbers."""
    numbers = []
    a, b = 0, 1
    for _ in range(n):
        numbers.append(a)
        a, b = b, a + b
    return numbers


def gcd(a: int, b: int) -> int:
    """Compute the greatest common divisor of two numbers."""
    while b:
        a, b = b, a % b
    return a


def lcm(a: int, b: int) -> int:
    """Compute the least common multiple of two numbers."""
    x, y = a, b
    while y:
        x, y = y, x % y
    return a * b // x


def power(base: int, exponent: int) -> int:
    """Raise a number to a power."""
    result = 1
    for _ in range(exponent):
        result *= base
    return result


def absolute(x: int) -> int:
    """Return the absolute value of a number."""
    return -x if x < 0 else x


def clamp(x: float, low: float, high: float) -> float:
    """Limit a number to a range."""
    return max(low, min(x, high))


def sign(x: int) -> int:
    """Return the sign of a number."""
    if x > 0:
        return 1
    if x < 0:
        return -1
    return 0


def digits(n: int) -> list[int]:
    """Return the digits of a number."""
    return [int(digit) for digit in str(n)]


def digit_sum(n: int) -> int:
    """Compute the sum of the digits of a number."""
    return sum(int(digit) for digit in str(n))


def divisors(n: int) -> list[int]:
    """Return all divisors of a number."""
    return [i for i in range(1, n + 1) if n % i == 0]


def to_fahrenheit(celsius: float) -> float:
    """Convert Celsius to Fahrenheit."""
    return celsius * 9 / 5 + 32


def to_celsius(fahrenheit: float) -> float:
    """Convert Fahrenheit to Celsius."""
    return (fahrenheit - 32) * 5 / 9


def is_leap_year(year: int) -> bool:
    """Check whether a year is a leap year."""
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def fizzbuzz(n: int) -> list[str]:
    """Return the FizzBuzz sequence up to n."""
    result = []
    for i in range(1, n + 1):
        if i % 15 == 0:
            result.append("FizzBuzz")
        elif i % 3 == 0:
            result.append("Fizz")
        elif i % 5 == 0:
            result.append("Buzz")
        else:
            result.append(str(i))
    return result


def to_binary(n: int) -> str:
    """Convert a number to binary."""
    return bin(n)[2:]


def circle_area(radius: float) -> float:
    """Compute the area of a circle."""
    return 3.14159 * radius**2


def rectangle_area(width: float, height: float) -> float:
    """Compute the area of a rectangle."""
    return width * height


def distance(x1: float, y1: float, x2: float, y2: float) -> float:
    """Compute the distance between two points."""
    return ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5


def percentage(part: float, whole: float) -> float:
    """Compute what percentage one number is of another."""
    return part / whole * 100


def average(a: float, b: float) -> float:
    """Compute the average of two numbers."""
    return (a + b) / 2


def collatz(n: int) -> list[int]:
    """Return the Collatz sequence of a number."""
    sequence = [n]
    while n != 1:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        sequence.append(n)
    return sequence


def is_perfect_square(n: int) -> bool:
    """Check whether a number is a perfect square."""
    root = int(n**0.5)
    return root * root == n
