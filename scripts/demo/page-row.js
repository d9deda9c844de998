/** One row of the page: an upload with its bar, its figures and its buttons. File names only ever become text. */
const badges = {
  waiting: 'Waiting',
  uploading: 'Uploading',
  retrying: 'Connection lost',
  pausing: 'Pausing',
  paused: 'Paused',
  finishing: 'Finishing',
  done: 'Done',
  failed: 'Failed',
  cancelled: 'Cancelled',
  remembered: 'Not finished',
}

let rows = 0

export class Row {
  #parts

  constructor(name) {
    const template = document.getElementById('upload-row')
    this.element = template.content.firstElementChild.cloneNode(true)
    const part = (selector) => this.element.querySelector(selector)
    this.#parts = {
      name: part('.name'),
      badge: part('.badge'),
      bar: part('progress'),
      figures: part('.figures'),
      message: part('.message'),
      link: part('a'),
      main: part('.main-action'),
      end: part('.end-action'),
    }
    this.#parts.name.textContent = name
    this.#parts.name.id = `upload-name-${++rows}`
    this.#parts.bar.setAttribute('aria-labelledby', this.#parts.name.id)
  }

  /** Returns whether the state is another one than before. */
  show(state, doneBytes, size, message = '') {
    const { bar, badge } = this.#parts
    const changed = this.element.dataset.state !== state
    this.element.dataset.state = state
    badge.textContent = badges[state]
    bar.value = state === 'done' || size === 0 ? 1 : doneBytes / size
    this.#text('message', message)
    return changed
  }

  figures(text) {
    this.#text('figures', text)
  }

  /** The button keeps its place and its focus when its meaning changes. */
  mainAction(label, run) {
    this.#action(this.#parts.main, label, run)
  }

  endAction(label, run) {
    this.#action(this.#parts.end, label, run)
  }

  link(url, name) {
    const { link } = this.#parts
    link.href = url
    link.download = name
    link.setAttribute('aria-label', `Download ${name}`)
    link.hidden = false
  }

  focusLink() {
    this.#parts.link.focus()
  }

  hasFocus() {
    return this.element.contains(document.activeElement)
  }

  #action(button, label, run) {
    // A focused button that vanishes would take the focus to the top of the page.
    if (label === null && button === document.activeElement) this.#parts.name.focus()
    button.hidden = label === null
    button.onclick = run
    if (label === null || button.textContent === label) return
    button.textContent = label
    button.setAttribute('aria-label', `${label} ${this.#parts.name.textContent}`)
  }

  #text(part, text) {
    const element = this.#parts[part]
    if (element.textContent !== text) element.textContent = text
    element.hidden = text === ''
  }
}

const units = ['bytes', 'kB', 'MB', 'GB', 'TB']

export function formatBytes(bytes) {
  let value = bytes
  let unit = 0
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000
    unit++
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`
}

export function formatTime(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`
  const minutes = Math.round(seconds / 60)
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`
}
