/** One row of the page: an upload with its bar, its figures and its buttons. File names only ever become text. */
import type { Check } from './check.ts'

let rows = 0

export class Row {
  readonly element: HTMLElement
  readonly #name: HTMLElement
  readonly #bar: HTMLProgressElement
  readonly #main: HTMLButtonElement
  readonly #end: HTMLButtonElement
  readonly #link: HTMLAnchorElement

  constructor(name: string, clientName: string) {
    const template = document.querySelector('#upload-row') as HTMLTemplateElement
    this.element = template.content.firstElementChild?.cloneNode(true) as HTMLElement
    this.#name = this.#part('.name')
    this.#bar = this.#part('progress') as HTMLProgressElement
    this.#main = this.#part('.main-action') as HTMLButtonElement
    this.#end = this.#part('.end-action') as HTMLButtonElement
    this.#link = this.#part('.download') as HTMLAnchorElement
    this.#name.textContent = name
    this.#name.id = `upload-name-${++rows}`
    this.#bar.setAttribute('aria-labelledby', this.#name.id)
    this.#text('.client', clientName)
  }

  show(state: string, badge: string, message: string): void {
    this.element.dataset.state = state
    this.#text('.badge-text', badge)
    this.#text('.message', message)
  }

  progress(share: number, figures: string): void {
    this.#bar.value = share
    this.#text('.figures', figures)
  }

  /** The button keeps its place and its focus when its meaning changes. */
  mainAction(label: string | null, run: () => void = () => {}): void {
    this.#action(this.#main, label, run)
  }

  endAction(label: string | null, run: () => void = () => {}): void {
    this.#action(this.#end, label, run)
  }

  checked({ here, stored }: Check, verdict: string): void {
    this.#text('.verdict', verdict)
    this.#text('.here', here)
    this.#text('.stored', stored)
    this.#part('.check').hidden = false
  }

  link(url: string, fileName: string): void {
    this.#link.href = url
    this.#link.download = fileName
    this.#link.setAttribute('aria-label', `Download ${fileName}`)
    this.#link.hidden = false
  }

  #action(button: HTMLButtonElement, label: string | null, run: () => void): void {
    // A focused button that vanishes would take the focus to the top of the page.
    if (label === null && button === document.activeElement) this.#name.focus()
    button.hidden = label === null
    button.onclick = run
    if (label === null || button.textContent === label) return
    button.textContent = label
    button.setAttribute('aria-label', `${label} ${this.#name.textContent}`)
  }

  #part(selector: string): HTMLElement {
    return this.element.querySelector(selector) as HTMLElement
  }

  #text(selector: string, text: string): void {
    const element = this.#part(selector)
    if (element.textContent !== text) element.textContent = text
    element.hidden = text === ''
  }
}
